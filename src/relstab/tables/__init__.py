"""Tables made from tables: correlations, exponents, claims."""
