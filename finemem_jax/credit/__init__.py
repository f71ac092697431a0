"""Credit rules: one file each. EXPORTS is what every file has, checked when it is loaded.

`BY_INDEX = True`: turns are compared by their running number, which must mean the same in all samples of a group.
"""

EXPORTS = ("keys()", "advantages()")
