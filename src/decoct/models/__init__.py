"""The networks of the recipes: one file per paper, one function per network."""

from decoct.models.alexnet import alexnet
from decoct.models.densenet import densenet_40, densenet_121
from decoct.models.lenet import lenet_5, lenet_300_100, lenet_digits
from decoct.models.mobilenet import mobilenet_v1, mobilenet_v2
from decoct.models.recurrent import gru_classifier, lstm_classifier
from decoct.models.resnet import resnet_20, resnet_32, resnet_44, resnet_56, resnet_110
from decoct.models.senet import se_resnet_20
from decoct.models.shufflenet import shufflenet_v1, shufflenet_v2
from decoct.models.vgg import vgg_16
from decoct.models.vit import vit_small

__all__ = [
    "alexnet",
    "densenet_40",
    "densenet_121",
    "gru_classifier",
    "lenet_5",
    "lenet_300_100",
    "lenet_digits",
    "lstm_classifier",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet_20",
    "resnet_32",
    "resnet_44",
    "resnet_56",
    "resnet_110",
    "se_resnet_20",
    "shufflenet_v1",
    "shufflenet_v2",
    "vgg_16",
    "vit_small",
]
