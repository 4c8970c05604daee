"""Mutants: small realistic bugs in the source of this project's kernels, which the suite must see."""

from verify._mutants._catalogue import CATALOGUE as CATALOGUE
from verify._mutants._catalogue import in_reach as in_reach
from verify._mutants._catalogue import sampled as sampled
from verify._mutants._copy import kernels_digest as kernels_digest
from verify._mutants._mutant import Mutant as Mutant
from verify._mutants._record import Record as Record
from verify._mutants._trial import Fate as Fate
from verify._mutants._trial import References as References
from verify._mutants._trial import Status as Status
from verify._mutants._trial import Trial as Trial
from verify._mutants._trial import order as order
