"""Images and labels: from the disk to uint8 arrays in memory, and from those to batches.

Everything here fits in memory: the images lie on the device, and `batches.batch_indices` says which of
them make the batch of a (seed, step).
"""
