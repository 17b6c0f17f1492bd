"""Images and labels: from files to uint8 arrays, held in memory or streamed, and from those to batches.

A batch is a function of (seed, step). Where the arrays lie on the device, `order.batch_indices` picks from
them; a stream reads and decodes the same places. Neither has a state.
"""
