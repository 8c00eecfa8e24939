"""The network and what one needs to use it: `Sample` → `Processor` → `Batch` → `VLM`."""

from vlm.batch import Batch
from vlm.config import DecoderConfig, EncoderConfig, FusionConfig, ModelConfig, ResamplerConfig
from vlm.decoder import TextDecoder
from vlm.generate import Generated
from vlm.load import load, save
from vlm.look import attention_maps
from vlm.model import VLM, Output
from vlm.processor import Processor
from vlm.sample import Image, Sample, Text, Video

__all__ = [
    "VLM",
    "Batch",
    "DecoderConfig",
    "EncoderConfig",
    "FusionConfig",
    "Generated",
    "Image",
    "ModelConfig",
    "Output",
    "Processor",
    "ResamplerConfig",
    "Sample",
    "Text",
    "TextDecoder",
    "Video",
    "attention_maps",
    "load",
    "save",
]
