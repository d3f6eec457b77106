"""The backend functions of Keras 2 over `keras.ops`, by theme; `k` makes `K` of them."""
