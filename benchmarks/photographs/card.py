"""The model card of an assembled checkpoint: what it is, where it is from, and what it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.photographs.language import ASKED
from benchmarks.photographs.packages import LANGUAGE, TOWER

if TYPE_CHECKING:
    from benchmarks.photographs.assemble import Checked

CLASSES = {"internvl": "InternVLForConditionalGeneration", "llava": "LlavaForConditionalGeneration"}


def card(layout: str, model: Any, checked: Checked) -> str:
    """In Markdown, with the metadata that the Hugging Face Hub reads."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    tower = (
        f"`{TOWER.requirement}` on the Python Package Index, `{TOWER.file}`: the backbone of a saliency network in the "
        f"shape of DINOv2-small. That package does not say whether it was trained further for saliency"
    )
    language = (
        f"`{LANGUAGE.requirement}`, `{LANGUAGE.file}`: SmolLM2-135M-Instruct, stored here as what its 4-bit "
        f"quantisation stands for"
    )
    said = "\n".join(f"- {q} {a!r}" for q, a in zip(ASKED, checked.answers, strict=True))
    return f"""---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---

# DINOv2-small and SmolLM2-135M-Instruct, in the layout of {CLASSES[layout]}

A test object for unlearning with pretrained weights on both sides, {millions:.0f} million parameters, put together by
`python -m benchmarks.photographs.assemble --layout {layout}` of unsee. **The pairing is ours, and nobody has taught the
projector between them: its weights are random. As it is, the model cannot tell what is in a picture.**

| part | taken from | licence |
|---|---|---|
| vision tower | {tower} | package MIT; DINOv2-small Apache-2.0 |
| language model, tokenizer | {language} | Apache-2.0 |
| projector | drawn at random, seed 0 | as unsee, Apache-2.0 |

A picture is {checked.image_tokens} tokens. Positions of patches are resampled from 37 × 37, as DINOv2 does itself. The
chat format is SmolLM2's without the system's turn; tokens that stand for images are new, their rows the mean of all.

Compared when it was assembled, after reading the checkpoint again:

- features of two drawn pictures against the ONNX file, run by ONNX Runtime: {checked.features:.1e} apart at most;
- greedy answers, the same as those of the GGUF file as transformers reads it:

{said}
"""
