"""Detectors that others exported to ONNX: read, recognised by their outputs, rewired to the contract."""
