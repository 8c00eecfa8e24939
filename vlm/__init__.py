"""The network and what one needs to use it: `Sample` → `Processor` → `Batch` → `VLM`."""

from vlm.batch import Batch
from vlm.chat import chat_sample
from vlm.config import DecoderConfig, EncoderConfig, FusionConfig, ModelConfig, ResamplerConfig
from vlm.decoder import TextDecoder
from vlm.generate import Generated
from vlm.load import load, save
from vlm.look import attention_maps
from vlm.model import VLM, Output
from vlm.processor import Processor
from vlm.sample import Image, Sample, Text, Video
from vlm.sampling import Sampling
from vlm.text_stream import generate_text, stream_text

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
    "Sampling",
    "Text",
    "TextDecoder",
    "Video",
    "attention_maps",
    "chat_sample",
    "generate_text",
    "load",
    "save",
    "stream_text",
]
