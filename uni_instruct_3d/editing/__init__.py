"""Pictures edited by a pair of prompts and restored from measurements: commands, result pages, the table.

The mathematics is `uni_instruct_guidance.editing`; editing of finished 3D assets is a stage of `pipeline`.
"""

#: The teacher of both commands where none is named.
BUILTIN = "load/teachers/shapes"
