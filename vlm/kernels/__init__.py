"""Triton kernels. They need a GPU, or TRITON_INTERPRET=1; modules of `vlm` are their reference.

For writing, one token a row and few rows, so that time is what the weights take to be read (`vlm.decode` puts them in place):

    products   norm → matrix, and activation → matrix → weighted sum over experts → residual
    router     norm → scores → the k experts of each row
    attend     a row's queries over its own cache, and over its own images
    pick       the likeliest token and its log-probability
    launch     these as functions of tensors

Each of these reads a tile of a weight once for all rows, adds in float32, and rounds where the modules store their results.
For training: `rows`, `gated` and `cross_entropy`.
"""
