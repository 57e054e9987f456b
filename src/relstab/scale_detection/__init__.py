"""Scale-detection tasks: where what spatial pooling does to sensitivities can be computed (paper, sections 3 and 4)."""
