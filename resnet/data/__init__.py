"""Images and labels: from the disk to uint8 arrays in memory, and from those to batches.

Everything here fits in memory, so a batch is a function of (seed, step): the arrays lie on the
device and `batches.batch_indices` picks from them. Images too large for that will come as streams,
in a file beside these: they share `DataConfig` and what `Dataset` says of its images, and carry
`{"next_index": k}` as their state.
"""
