"""Training on several devices, in one process or in several, with the losses of one device.

scopes      data_parallel: every device computes a part of each batch
            model_parallel: every device holds a part of each large matrix (JAX)
layout      which weights `model_parallel` splits, and along which axis
parts       losses of parts of a batch that add up to the loss of the batch
processes   communication between the processes of PyTorch
model       DistributedModel: the methods of a model on several devices
choice      BuiltForDevices: a model built in such a scope becomes distributed

The loss to be computed is that of the whole batch. JAX does this itself: a program is written for
the whole batch, and the compiler splits it. On TensorFlow and PyTorch the program is run for each
part of the batch. There a loss that is a mean over n_r samples, tokens or weights of part r is
scaled by n_r / Σ n_r, so that the gradients of all parts sum to the gradient of the batch, whether
the parts have the same size or not.
"""
