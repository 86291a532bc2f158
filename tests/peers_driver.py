"""Runs in the peers' interpreter, where this project need not be: loads folders with the peers' own
loaders and writes down what they make of rows. Questions come on stdin (`peers.Peers`)."""

import glob
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file


def sparsify(folder, x):
    from sparsify import SparseCoder

    sae = SparseCoder.load_from_disk(folder, device="cpu")
    top = sae.encode(x)
    f = torch.zeros(len(x), sae.num_latents).scatter_(1, top.top_indices, top.top_acts)
    return {"f": f, "out": sae(x).sae_out}


def dictionary_learning(folder, x):
    from dictionary_learning.utils import load_dictionary

    sae, _ = load_dictionary(folder, device="cpu")
    return {"f": sae.encode(x), "out": sae(x)}


def circuit_tracer(folder, x):
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    count = len(glob.glob(os.path.join(folder, "layer_*.safetensors")))
    paths = {i: os.path.join(folder, f"layer_{i}.safetensors") for i in range(count)}
    config = read_yaml(os.path.join(folder, "config.yaml"))
    assert config.pop("model_kind") == "transcoder_set" and config.pop("model_name")
    every = load_transcoder_set(
        paths, **config, device=torch.device("cpu"), lazy_encoder=True, lazy_decoder=True
    )
    answer = {}
    for i, layer in enumerate(every):
        f = layer.encode(x)
        answer |= {f"f{i}": f, f"out{i}": layer.decode(f, x)}
    return answer


def read_yaml(path):
    import yaml

    with open(path) as file:
        return yaml.safe_load(file)


LOADERS = {
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "circuit-tracer": circuit_tracer,
}

for asked in json.load(sys.stdin):
    with torch.no_grad():
        found = LOADERS[asked["format"]](asked["folder"], load_file(asked["rows"])["x"])
    save_file({n: t.contiguous() for n, t in found.items()}, asked["answer"])
