"""Data sets, and the loader that feeds them to a training loop in batches."""

from needle_core.data.augment import Normalize, RandomCrop, RandomFlip, compose
from needle_core.data.cifar import cifar10, read_cifar10
from needle_core.data.dataset import ArrayDataset, Arrays, Dataset, Transform, image_dataset
from needle_core.data.digits import digits
from needle_core.data.idx import fashion_mnist, idx_dataset, read_idx
from needle_core.data.loader import DataLoader
from needle_core.data.text import Corpus, TokenStream, Vocabulary, read_text, standard_library

__all__ = ["Arrays", "Dataset", "ArrayDataset", "Transform", "DataLoader"]
__all__ += ["digits", "fashion_mnist", "cifar10", "read_idx", "read_cifar10", "idx_dataset", "image_dataset"]
__all__ += ["compose", "RandomCrop", "RandomFlip", "Normalize"]
__all__ += ["Corpus", "TokenStream", "Vocabulary", "read_text", "standard_library"]
