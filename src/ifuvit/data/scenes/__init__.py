"""OpenMoji Scenes: small images with known contents, drawn on the fly from the vector emoji of the OpenMoji project.

A scene is 1 to 5 copies of one kind of object (about three quarters of the scenes), or two different kinds, one each,
with a spatial relation (the rest), on one of six backgrounds, with five captions. Everything about a scene follows from
(seed, split, index): the same numbers give the same bytes, in any order and for any subset.

Some combinations, (kind, count) and (kind, relation, kind), are held out: they occur in the split "val" only. Which
ones does not depend on the seed, so the training set of any seed is free of them.

`contents` has what a scene can show, `captions` what is said of it; `drawing` makes it, `writing` makes a data set, and
`reading` reads one back.

OpenMoji is licensed CC BY-SA 4.0; so are the images drawn here.
"""

from ifuvit.data.scenes.captions import TEMPLATES, prompt_for, relation_prompt_for
from ifuvit.data.scenes.contents import (
    BACKGROUNDS,
    INVERSE,
    KIND_INDEX,
    KINDS,
    MAX_COUNT,
    PAPER_KINDS,
    RELATIONS,
    Background,
    Kind,
    Relation,
    is_held_out_count,
    is_held_out_relation,
)
from ifuvit.data.scenes.drawing import Scene, Split, draw_scene, object_sizes, openmoji_version
from ifuvit.data.scenes.reading import WrittenScene, is_scenes, read_annotations
from ifuvit.data.scenes.writing import held_out, write_scenes

__all__ = [
    "BACKGROUNDS",
    "INVERSE",
    "KINDS",
    "KIND_INDEX",
    "MAX_COUNT",
    "PAPER_KINDS",
    "RELATIONS",
    "TEMPLATES",
    "Background",
    "Kind",
    "Relation",
    "Scene",
    "Split",
    "WrittenScene",
    "draw_scene",
    "held_out",
    "is_held_out_count",
    "is_held_out_relation",
    "is_scenes",
    "object_sizes",
    "openmoji_version",
    "prompt_for",
    "read_annotations",
    "relation_prompt_for",
    "write_scenes",
]
