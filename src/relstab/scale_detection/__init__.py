"""Scale-detection tasks, for which the effect of spatial pooling on sensitivities can be computed (paper, sections 3 and 4)."""
