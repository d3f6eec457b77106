"""Data on their way to a model, in numpy alone. Nothing here imports Keras.

* `arrays` pads sequences, resizes weights, and finds the best path of labels.
* `files` opens files, whose lines may be read by their number.
* `parallel` has several processes or threads work on items.
* `generator` makes batches of samples.
"""
