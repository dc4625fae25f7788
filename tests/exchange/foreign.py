"""Run by an interpreter that has repeng and steering-vectors; prints what those packages make of our files as JSON.

The files in fixtures/ were written by it, with repeng 0.4.0 and steering-vectors 0.12.2 on the embedded model; beginnings.json
holds the first values of each vector as those packages had them.

    python foreign.py steer-steering-vectors MODEL FILE      steer with SteeringVector(**torch.load(FILE))
    python foreign.py steer-repeng MODEL FILE                steer with ControlVector.import_gguf(FILE)
    python foreign.py save-steering-vectors MODEL FILE       train on two pairs, torch.save the object
    python foreign.py save-repeng MODEL FILE                 the same with repeng, export_gguf
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

IDS = [[1, 17, 42, 99, 7]]
PAIRS = [("Yes, you are right.", "No, you are wrong."), ("I agree with it.", "I object to it."), ("Sure!", "Never!")]


def answer(model, vectors):
    with torch.inference_mode():
        logits = model(torch.tensor(IDS)).logits[0, -1].tolist()
    return {"logits": logits, "beginnings": {block: vector[:4].tolist() for block, vector in vectors.items()}}


def main(action, folder, path):
    config = AutoConfig.from_pretrained(folder)
    # Written by transformers 5, which keeps this where the 4.x that the packages bring does not look.
    config.rope_theta = json.loads((Path(folder) / "config.json").read_text())["rope_parameters"]["rope_theta"]
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    if action == "steer-steering-vectors":
        from steering_vectors import SteeringVector

        vector = SteeringVector(**torch.load(path))
        with vector.apply(model):
            return answer(model, vector.layer_activations)
    if action == "steer-repeng":
        from repeng import ControlModel, ControlVector

        vector = ControlVector.import_gguf(path)
        controlled = ControlModel(model, list(vector.directions))
        controlled.set_control(vector, 1.0)
        return answer(controlled, vector.directions)
    end = "<|im_end|>"  # the file alone: the packages bring a transformers that may not know our tokenizer's class
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", eos_token=end, pad_token=end)
    if action == "save-steering-vectors":
        from steering_vectors import train_steering_vector

        vector = train_steering_vector(model, tokenizer, PAIRS, layers=[4, 14])
        torch.save(vector, path)
        with vector.apply(model):
            return answer(model, vector.layer_activations)
    from repeng import ControlModel, ControlVector, DatasetEntry

    entries = [DatasetEntry(*pair) for pair in PAIRS]
    vector = ControlVector.train(model, tokenizer, entries, hidden_layers=[4, 14])
    vector.export_gguf(path)
    controlled = ControlModel(model, [4, 14])
    controlled.set_control(vector, 1.0)
    return answer(controlled, vector.directions)


if __name__ == "__main__":
    json.dump(main(*sys.argv[1:]), sys.stdout)
