"""Neural networks: Module and Parameter, layers, losses, and how weights start."""

from needle_core.nn import init, pytorch
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
from needle_core.nn.attention import MultiHeadAttention
from needle_core.nn.containers import ModuleDict, ModuleList, Residual, Sequential
from needle_core.nn.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from needle_core.nn.dropout import Dropout
from needle_core.nn.interpolation import Upsample
from needle_core.nn.linear import Embedding, Flatten, Identity, Linear
from needle_core.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, L2Loss, MSELoss, SoftmaxLoss
from needle_core.nn.module import Buffer, Module, Parameter
from needle_core.nn.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm, LayerNorm1d, RMSNorm
from needle_core.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool1d,
    MaxPool2d,
)
from needle_core.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from needle_core.nn.transformer import PositionalEncoding, TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "Module", "Parameter", "Buffer", "init", "pytorch",
    "Sequential", "ModuleList", "ModuleDict", "Residual",
    "Linear", "Embedding", "Flatten", "Identity", "Upsample",
    "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d",
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d",
    "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool1d", "MaxPool2d",
    "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell",
    "MultiHeadAttention", "PositionalEncoding", "TransformerDecoderLayer", "TransformerEncoderLayer",
    "ELU", "GELU", "HardSigmoid", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "ReLU", "ReLU6", "SELU", "Sigmoid", "SiLU",
    "Softmax", "Softplus", "Softsign", "Tanh",
    "BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm2d", "LayerNorm", "LayerNorm1d", "RMSNorm", "Dropout",
    "SoftmaxLoss", "CrossEntropyLoss", "L2Loss", "MSELoss", "L1Loss", "BCEWithLogitsLoss",
]  # fmt: skip
