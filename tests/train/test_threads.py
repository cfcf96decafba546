"""The number of threads that training chooses, on machines whose clocks are made up."""

import itertools
import random

import pytest
import torch

from rlv2v_fast.train import threads
from rlv2v_fast.train.threads import Chooser


class Machine:
    """Iterations of a serial and a parallel part, in seconds of one core, on `cores` of which `busy` are another's.

    Threads that outnumber the free cores wait for each other: the parallel part takes `penalty` times as long.
    """

    def __init__(self, cores=2, busy=0, serial=0.15, parallel=0.3, penalty=3.0, noise=0.0, longer=()):
        self.cores, self.busy, self.serial, self.parallel, self.penalty = cores, busy, serial, parallel, penalty
        self.noise, self.longer, self.random = noise, itertools.cycle(longer or (1,)), random.Random(0)
        self.wall = self.processor = 0.0
        self.used = []
        self.threads = cores
        self.seconds = []

    def cost(self, count):
        free = max(1, self.cores - self.busy)
        waits = self.penalty if count > free else 1
        return self.serial + self.parallel / min(count, free) * waits

    def run(self, chooser, iterations):
        """Mean seconds of an iteration."""
        began = self.wall
        for _ in range(iterations):
            with chooser.iteration():
                times = next(self.longer) * (1 + self.noise * self.random.uniform(-1, 1))
                self.wall += times * self.cost(self.threads)
                self.processor += times * (self.serial + self.parallel)
            self.used.append(self.threads)
        return (self.wall - began) / iterations

    def chooser(self, most=None):
        self.threads = most or self.cores
        return Chooser(self.threads, lambda count: setattr(self, "threads", count), lambda: self.wall, self.clock)

    def clock(self):
        return self.processor


def test_a_quiet_machine_keeps_all_its_threads():
    for longer in ((), (3, 1, 1, 1)):
        machine = Machine(longer=longer)
        machine.run(machine.chooser(), 500)
        assert set(machine.used) == {2}


def test_a_busy_core_leaves_one_thread():
    machine = Machine(busy=1)
    seconds = machine.run(machine.chooser(), 400)
    assert machine.used[8] == 1
    assert seconds < 1.12 * machine.cost(1)


def test_a_machine_that_becomes_busy_is_noticed_at_once():
    machine = Machine()
    chooser = machine.chooser()
    machine.run(chooser, 1000)
    machine.busy = 1
    machine.run(chooser, 20)
    assert machine.used[-1] == 1
    assert machine.used[1000:].index(1) <= 4


def test_a_machine_that_becomes_quiet_is_noticed_in_time():
    machine = Machine(busy=1)
    chooser = machine.chooser()
    machine.run(chooser, 1000)
    machine.busy = 0
    machine.run(chooser, 140)
    assert set(machine.used[-5:]) == {2}


def test_threads_beyond_the_quota_of_cores_are_given_up():
    machine = Machine(cores=2)
    machine.run(machine.chooser(most=48), 150)
    assert set(machine.used[60:]) <= {2, 4}
    assert machine.used[60:].count(2) >= 75


def test_work_that_cannot_be_shared_costs_no_trials():
    machine = Machine(cores=4, serial=1.0, parallel=0.0)
    seconds = machine.run(machine.chooser(), 300)
    assert seconds == pytest.approx(1.0)


@pytest.mark.parametrize("busy", [0, 1])
@pytest.mark.parametrize("cores", [2, 4, 8])
def test_noise_costs_little(cores, busy):
    machine = Machine(cores=cores, busy=busy, noise=0.3)
    seconds = machine.run(machine.chooser(), 600)
    assert seconds < 1.15 * min(machine.cost(count) for count in (1, 2, 4, 8) if count <= cores)


def test_an_iteration_that_fails_leaves_the_chooser_usable():
    machine = Machine()
    chooser = machine.chooser()
    with pytest.raises(KeyError), chooser.iteration():
        raise KeyError
    machine.run(chooser, 20)
    assert machine.used[-1] == 2


@pytest.fixture
def two_threads(monkeypatch):
    """A process of two threads, of which a test may think what it likes; the real one keeps its own."""
    count = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda new: count.__setitem__(0, new))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_allowed", False)
    monkeypatch.setattr(threads, "_chooser", None)
    return count


def iterate_on_a_busy_machine(count, monkeypatch, device="cpu"):
    machine = Machine(busy=1)
    monkeypatch.setattr(threads, "Chooser", lambda most, use: Chooser(most, use, lambda: machine.wall, machine.clock))
    for _ in range(20):
        with threads.iteration(torch.device(device)):
            machine.wall += machine.cost(count[0])
            machine.processor += 0.45


def test_iterations_choose_threads_where_that_is_allowed(two_threads, monkeypatch):
    threads.allow()
    iterate_on_a_busy_machine(two_threads, monkeypatch)
    assert two_threads == [1]


def test_a_library_chooses_nothing(two_threads, monkeypatch):
    iterate_on_a_busy_machine(two_threads, monkeypatch)
    assert two_threads == [2]


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_users_number_of_threads_stands(two_threads, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    threads.allow()
    iterate_on_a_busy_machine(two_threads, monkeypatch)
    assert two_threads == [2]


def test_nothing_is_chosen_for_a_gpu(two_threads, monkeypatch):
    threads.allow()
    iterate_on_a_busy_machine(two_threads, monkeypatch, "cuda")
    assert two_threads == [2]
