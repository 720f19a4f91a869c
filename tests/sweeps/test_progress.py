"""How far a sweep is, told by its files."""

import json
import os
import time

import pytest
from sweeps.made import made

from lmlab.files import lock_at
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.launch.journal import FOLDER, Event, Journal
from lmlab.sweeps.launch.planned import LaunchPlan, Work
from lmlab.sweeps.live.progress import Watched
from lmlab.sweeps.live.time_left import Running, time_left
from lmlab.sweeps.table.reading import read

SMALL, LARGE = Work(steps=100, flops=1e9), Work(steps=100, flops=8e9)
