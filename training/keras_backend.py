"""What Keras trains on, and how it is made to give equal networks."""

import keras

from models.errors import DataError
from training.parallel import cores


def device() -> str:
    """Where Keras will train: backend and device. Raises `DataError` for a backend that is not trained with."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return f"jax on {jax.devices()[0].device_kind}"
    if backend != "tensorflow":
        raise DataError(f"Keras runs on {backend!r}. Set KERAS_BACKEND to tensorflow or jax, or unset it.")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"{backend} on " + (f"{len(gpus)} GPU" if gpus else f"CPU, {cores()} cores")


def be_deterministic() -> None:
    """From now on equal training gives equal networks, where the backend can be asked for that."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
