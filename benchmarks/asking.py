"""How much faster a benchmark is answered in batches than one question at a time, with the same answers, in one run.

    python benchmarks/asking.py --out benchmarks/results/asking.json

*One at a time*: as the evaluators of MLLMU-Bench and CLEAR do it, the processor's inputs with the image's pixels and
``model.generate`` for each question, greedy, up to 50 tokens. *Engine*: ``unsee.evaluation.engine``, its check of the
model included, nothing kept from one turn to the next. Both get the same images, drawn before. They take turns; the
ratio is of their medians, its interval by bootstrap over the turns. Each runs with the number of threads that is
quickest for it, found on a part of the questions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from realsize import machine

from unsee.data import people
from unsee.data.study import PeopleStudy
from unsee.evaluation.ask import Prompt
from unsee.evaluation.engine import TransformersEngine
from unsee.evaluation.plain import Drawn
from unsee.files import write_json
from unsee.progress import say
from unsee.runs import command_line, revision
from unsee.tiny import packaged
from unsee.vision.module import load_full

TOKENS = 50
Answer = Callable[[list[Prompt]], list[str]]


def questions(count: int) -> list[Prompt]:
    """All that is asked about one unseen view of each of ``count`` people, and about their names alone."""
    world, found = PeopleStudy().world, []
    for person in world.people[:count]:
        view = people.test_views(person, 1)[0]
        image = Drawn(view.id, view.load())
        found += [Prompt(q.prompt, image) for q in people.image_questions(person, view, "test")]
        found += [Prompt(q.prompt) for q in people.text_questions(person, "test")]
    return found


def one_at_a_time(model: Any, processor: Any) -> Answer:
    def answer(prompt: Prompt) -> str:
        content = [{"type": "image"}] * (prompt.image is not None) + [{"type": "text", "text": prompt.text}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        images = [prompt.image.load()] if prompt.image else None
        inputs = processor(text=[text], images=images, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    return lambda prompts: [answer(prompt) for prompt in prompts]


def by_engine(model: Any, processor: Any, batch: int, encoded: list[int]) -> Answer:
    def answer(prompts: list[Prompt]) -> list[str]:
        engine = TransformersEngine(model, processor, batch=batch)
        said = engine.generate(prompts, TOKENS)
        encoded.append(engine.encoded)
        return said

    return answer


def timed(answer: Answer, prompts: list[Prompt], threads: int) -> tuple[list[str], float]:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    said = answer(prompts)
    return said, time.perf_counter() - started


def quickest(answer: Answer, prompts: list[Prompt], most: int) -> int:
    answer(prompts[: len(prompts) // 4])
    return min(range(1, most + 1), key=lambda n: median(timed(answer, prompts, n)[1] for _ in range(3)))


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    rng, a, b = np.random.default_rng(0), np.array(slow), np.array(fast)
    picks = rng.integers(0, len(a), (2000, len(a)))
    low, high = np.quantile(np.median(a[picks], axis=1) / np.median(b[picks], axis=1), [0.025, 0.975])
    return {"value": float(np.median(a) / np.median(b)), "low": float(low), "high": float(high)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    model, processor = load_full(args.vanilla or packaged("people-vanilla"))
    prompts, encoded = questions(args.people), []
    ways = {
        "one_at_a_time": one_at_a_time(model, processor),
        "engine": by_engine(model, processor, args.batch, encoded),
    }
    most = torch.get_num_threads()
    threads = {name: quickest(way, prompts[: max(1, len(prompts) // 8)], most) for name, way in ways.items()}
    encoded.clear()
    said: dict[str, list[list[str]]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.turns):
        for name, way in ways.items():
            answers, took = timed(way, prompts, threads[name])
            said[name].append(answers)
            seconds[name].append(took)
        say(f"turn {turn}: " + " ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items()))
    torch.set_num_threads(most)
    first, everything = said["one_at_a_time"][0], [a for of in said.values() for a in of]
    return {
        "model": "people-vanilla",
        "questions": len(prompts),
        "images": args.people,
        "encoded": sorted(set(encoded)),
        "batch": args.batch,
        "tokens": TOKENS,
        "threads": threads,
        "seconds": seconds,
        "ratio": ratio(seconds["one_at_a_time"], seconds["engine"]),
        "same_answers": all(answers == first for answers in everything),
        "different_answers": len(set(first)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vanilla", default="", help="folder of the model; the one that ships")
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", required=True)
    args, at = parser.parse_args(), revision()
    write_json(
        args.out,
        {**run(args), "command": command_line("python benchmarks/asking.py"), "commit": at, "machine": machine()},
    )


if __name__ == "__main__":
    main()
