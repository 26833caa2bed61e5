"""Neural networks: Module and Parameter, layers, losses, and how weights start."""

from needle_core.nn import init
from needle_core.nn.activation import (
    ELU,
    GELU,
    SELU,
    HardSigmoid,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from needle_core.nn.containers import ModuleDict, ModuleList, Residual, Sequential
from needle_core.nn.convolution import Conv1d, Conv2d
from needle_core.nn.dropout import Dropout
from needle_core.nn.linear import Embedding, Flatten, Identity, Linear
from needle_core.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, L2Loss, MSELoss, SoftmaxLoss
from needle_core.nn.module import Buffer, Module, Parameter
from needle_core.nn.normalization import BatchNorm1d, BatchNorm2d, LayerNorm, LayerNorm1d
from needle_core.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = [
    "Module", "Parameter", "Buffer", "init",
    "Sequential", "ModuleList", "ModuleDict", "Residual",
    "Linear", "Embedding", "Flatten", "Identity",
    "Conv1d", "Conv2d",
    "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell",
    "ELU", "GELU", "HardSigmoid", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "ReLU", "ReLU6", "SELU", "Sigmoid", "SiLU",
    "Softmax", "Softplus", "Softsign", "Tanh",
    "BatchNorm1d", "BatchNorm2d", "LayerNorm", "LayerNorm1d", "Dropout",
    "SoftmaxLoss", "CrossEntropyLoss", "L2Loss", "MSELoss", "L1Loss", "BCEWithLogitsLoss",
]  # fmt: skip
