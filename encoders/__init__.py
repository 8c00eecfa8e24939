"""Vision encoders from timm and open_clip behind one small protocol: pictures in, patch tokens out."""

from encoders.base import Encoder, EncoderConfig, build_encoder, native_pixels

__all__ = ["Encoder", "EncoderConfig", "build_encoder", "native_pixels"]
