"""Triton kernels for writing: one token a row, few rows, so that time is what the weights take to be read.

    products   norm → matrix → activation, and (for several experts) matrix → weighted sum → residual
    router     norm → scores → the k experts of each row
    attend     a row's queries over its own cache, and over its own images
    pick       the likeliest token and its log-probability

Each reads a tile of a weight once for all rows, adds in float32, and rounds where the modules of `vlm` store their results.
The modules are the reference: `vlm.decode` puts the kernels in their places. They need a GPU, or TRITON_INTERPRET=1.
"""
