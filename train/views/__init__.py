"""The two views of an image that a training step sees (asymmetric augmentation, arXiv 2309.16921).

The strong view (mosaic, copy-paste, mixup, random affine and perspective, flips, colour) serves boxes, masks and
semantic map, whose labels move with the pixels. The weak view, letterbox only, serves the caption, which speaks of the
whole image and its left and right.
"""
