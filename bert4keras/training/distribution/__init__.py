"""Training on several devices, in one process or in several, with the losses of one device.

scopes      data_parallel: every device computes a part of each batch
            model_parallel: every device holds a part of each large matrix (JAX)
layout      which weights `model_parallel` splits, and along which axis
parts       losses of parts of a batch that add up to the loss of the batch
processes   what the processes of PyTorch send one another
model       what a model has to do beside that
choice      which models are distributed: those that are built in such a scope

What is to be computed is the loss of the whole batch. JAX sees to that itself: a program is written
for the whole batch, and the compiler splits it. On TensorFlow and PyTorch the program is run for
each part of the batch. There a loss that is a mean over n_r samples, tokens or weights of part r
is scaled by n_r / Σ n_r, so that the gradients of all parts add up to the gradient of the batch,
whether the parts are equal or not.
"""
