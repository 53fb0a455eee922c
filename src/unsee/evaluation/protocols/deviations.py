"""Where figures are not those that the published evaluators' code makes of the same answers, and why.

docs/evaluation.md shows the same list.
"""

from __future__ import annotations

from unsee.evaluation.protocols.plan import Deviation

SHARED = (
    Deviation(
        "right answers and options",
        "takes the cells as they stand, so that a blank at an end makes a right answer wrong",
        "blanks around them are dropped",
        "a blank is no knowledge",
    ),
    Deviation(
        "how it is asked",
        "asks one question at a time in half precision on a GPU",
        "in batches that give the same answers, in the checkpoint's own precision on a GPU, in float32 elsewhere",
        "time; no half precision is fast on a CPU",
        always=True,
    ),
    Deviation(
        "rows that cannot be asked",
        "stops at them, or counts them as they fall",
        "questions without text, answer or a right letter, and tasks of an unknown Type, are left out, and `unsee data "
        "check` lists them",
        "a figure over broken rows says nothing",
        always=True,
    ),
)
MLLMU = (
    Deviation(
        "few-shot examples",
        "draws people anew in each run from those it evaluates, unseeded, and skips the questions that stand where "
        "theirs did; with --original the draw is seeded",
        "two retained people, drawn with a seed, and in no figure: the forget set is asked whole",
        "an example gives away what is asked",
    ),
    Deviation("options of examples", "shows four, A to D", "all that there are", "as in the question"),
    Deviation(
        "pictures of the test set",
        "picks one for each person and task by chance, unseeded; with --original seeded",
        "every one is asked about",
        "the figure cannot hang on the draw",
    ),
    Deviation(
        "right letter",
        "compares the first letter with the whole cell, so that 'A. Paris' is never right",
        "the letter is taken out of the cell",
        "the cell means its letter",
    ),
    Deviation(
        "other families",
        "has prompts of Idefics2, the same as LLaVA's, with one example",
        "all but LLaVA-1.5 are asked in their own chat format, without examples",
        "one rule for all families",
        always=True,
    ),
    Deviation("GPT score", "asks GPT how factual answers are", "left out", "it hangs on a service", always=True),
)
CLEAR = (
    Deviation(
        "free answers",
        "generates from the prompt's words without image and special tokens, and with a blank at the end",
        "with the image, in the format of the model",
        "ROUGE does not see the picture",
    ),
    Deviation(
        "truth ratio",
        "sets each right answer against the mean loss of the wrong answers of all items",
        "against the item's own",
        "TOFU's definition",
    ),
    Deviation(
        "caption questions",
        "draws one of nine anew for each answer scored, unseeded; with --original seeded",
        "one for each image, the same for all its answers",
        "answers to different questions are not compared",
    ),
    Deviation(
        "wrong options of real faces and real world",
        "takes every option, the right one among them",
        "the right one is left out",
        "it is not wrong",
    ),
    Deviation(
        "end of turn",
        "scores with each answer all that the chat format writes behind it: blanks and newlines, and in LLaVA-1.5's, "
        "which writes no end, a blank alone",
        "the token that ends the turn, alone",
        "a model is not taught those blanks",
    ),
    Deviation(
        "recall",
        "compares with the right answer as the tokenizer decodes it, without words that it does not know",
        "with the answer itself",
        "tokenizers of real models know every word",
        always=True,
    ),
    Deviation("rows", "takes the first 300 of each table (ds_size)", "all", "the forget set is asked whole"),
    Deviation(
        "people in no set of the split",
        "counts whoever stands in retain_perturbed as retained",
        "who is not among the retained of this split is left out",
        "some are to be forgotten",
    ),
    Deviation(
        "JS to gold",
        "reads the two rows of truth ratios as two distributions, item by item",
        "of their histograms, after r/(1 + r), to base 2",
        "it compares what is distributed",
    ),
    Deviation(
        "where the scored answer begins",
        "counts an image as one token, so that of Qwen2-VL, whose processor writes more, it scores the image's tokens "
        "and the question too",
        "where the answer begins",
        "an image's tokens are no answer",
    ),
    Deviation(
        "LLaVA-1.5 with a processor that writes an image out in tokens",
        "stops at the wrong answers' pictures",
        "scored as with the older processor, which writes one",
        "the figures in the paper are of that",
        always=True,
    ),
    Deviation(
        "lists of unequal length",
        "batches wrong answers only where all rows have as many",
        "each row is scored with what it has",
        "no row is lost",
        always=True,
    ),
    Deviation(
        "questions without an image",
        "asks none",
        "TOFU's are asked too, as `qa`, in figures of their own",
        "what is known by name",
        always=True,
    ),
    Deviation(
        "forget quality", "gives the p, or 1 − JS", "the natural logarithm of the p", "small p are told apart",
        always=True,
    ),
)  # fmt: skip
UMU = (
    Deviation(
        "right option of a question with an image",
        "takes it by the letter of the question in words",
        "by its own letter",
        "where the options are shuffled, another is right",
    ),
    Deviation(
        "cloze",
        "keeps the blank before a full stop ('Paris .') as part of the truth",
        "it is dropped",
        "a blank is no knowledge",
    ),
    Deviation(
        "options", "reads four, A to D", "all that there are", "no option is lost"
    ),
    Deviation(
        "questions in one modality only",
        "asks none with an image alone, and stops at one in words alone",
        "they are asked, and count in that modality's figures",
        "no question is lost",
    ),
    Deviation(
        "Qwen2-VL and other families",
        "has prompts of Qwen2-VL, though its main function refuses the model, and generates with the checkpoint's "
        "settings, which take the likeliest token",
        "those prompts, greedy, for all but LLaVA-1.5; blanks around an answer are dropped",
        "one rule for all families",
        always=True,
    ),
)  # fmt: skip
STRICT = (
    Deviation(
        "truth ratio (OpenUnlearning)",
        "takes the geometric mean of the wrong answers' probabilities, and adds 1e-10 below the line",
        "their plain mean, and 0.5 where all are 0",
        "the paper's definition",
    ),
    Deviation(
        "end of turn (OpenUnlearning)",
        "scores it with each answer in probability, truth ratio, loss and zlib",
        "left out",
        "how an answer ends is not what is known",
    ),
    Deviation(
        "extraction (OpenUnlearning)",
        "gives 1/L where not even the last of L tokens is said",
        "0",
        "nothing was extracted",
    ),
    Deviation("Min-K % and Min-K %++ (OpenUnlearning)", "takes k = 0.4", "k = 0.2", "the authors' value"),
    Deviation(
        "what an attack tells apart (OpenUnlearning)",
        "tells forget data from held-out data by one model",
        "the model from gold by the same answers",
        "other data differ by more than what was taught",
        always=True,
    ),
)

LISTED = {"MLLMU-Bench": MLLMU, "CLEAR": CLEAR, "UMU-Bench": UMU, "all three": SHARED, "strict": STRICT}
DEVIATIONS = {"mllmu": MLLMU + SHARED, "clear": CLEAR + SHARED, "umu": UMU + SHARED, "strict": STRICT}
