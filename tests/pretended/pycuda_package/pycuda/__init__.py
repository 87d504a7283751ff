"""In place of PyCUDA, which is compiled while it is installed: what the runtime uses of it, over the same driver."""
