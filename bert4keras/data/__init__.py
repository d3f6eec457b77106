"""Preparation of data for a model, in NumPy. Nothing here imports Keras.

* `arrays` pads sequences, resizes weights, and finds the best label sequence.
* `files` opens files, whose lines may be read by index.
* `tags` turns spans into BIO and other tags, and back.
* `generator` forms batches of samples; `labelled` those of texts with labels or tags.
"""
