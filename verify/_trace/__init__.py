"""Where a red case goes wrong first: the chunkwise computation of a subject beside the oracle's, stage by stage.

_stages      what a stage is, and how a subject exposes its own
_walk        the oracle's stages, in any arithmetic
_scales      the reference of every stage: value, bound, noise floor
_place       which stages are out, and where the first of them begins
_parts       which part of a sum the error of a stage lies along
_black_box   the same by prefixes, suffixes and cotangents, of a subject that exposes no stages
"""
