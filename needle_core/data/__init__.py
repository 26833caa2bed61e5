"""Data sets, and the loader that feeds them to a training loop in batches."""

from needle_core.data.dataset import ArrayDataset, Arrays, Dataset, Transform
from needle_core.data.digits import digits
from needle_core.data.idx import fashion_mnist, idx_dataset, read_idx
from needle_core.data.loader import DataLoader
from needle_core.data.text import Corpus, TokenStream, Vocabulary, read_text, standard_library

__all__ = ["Arrays", "Dataset", "ArrayDataset", "Transform", "DataLoader", "read_idx", "idx_dataset", "fashion_mnist", "digits"]
__all__ += ["Corpus", "TokenStream", "Vocabulary", "read_text", "standard_library"]
