"""How lmms-eval reads a row of people.yaml's data."""


def visual(row):
    return [row["image"].convert("RGB")]


def text(row, lmms_eval_specific_kwargs=None):
    return row["question"]
