"""What the help says of the commands: what each is for, its examples, and what its output means."""

from collections.abc import Collection
from typing import NamedTuple

OWN, STUDY = "layerpipe2.cli", "layerpipe2.lab.cli"
"""Homes of commands: those that work on a training of one's own, and those on the networks of the study."""


class Command(NamedTuple):
    """What the help says of a command.

    Attributes:
        purpose: for the list of commands.
        study: lines with examples on the networks of the study; empty: it has nothing to do with them.
        own: examples of what needs nothing but the library; empty: there is nothing.
        explanation: what stands below the examples, if anything does.
    """

    purpose: str
    study: str = ""
    own: str = ""
    explanation: str = ""

    @property
    def homes(self) -> tuple[str, ...]:
        """Packages with a module of its name that runs it, and a module ``commands`` with its options.

        The one in :data:`OWN` comes first; that in :data:`STUDY` can the same, too.
        """
        return tuple(home for home, examples in ((OWN, self.own), (STUDY, self.study)) if examples)

    def epilog(self, homes: Collection[str]) -> str:
        """Return what the help says below the options, with the examples of these homes."""
        examples = "\n".join(text for home, text in ((STUDY, self.study), (OWN, self.own)) if home in homes)
        return f"examples:\n{examples}\n" + (f"\n{self.explanation}\n" if self.explanation else "")


COMMANDS = {
    "train": Command(
        "train one network and write its record",
        study="""\
  layerpipe2 train                                     an MLP on digits, every unit a stage, exact stashing
  layerpipe2 train --strategy ema-window --group-size 2 --out window.json
  layerpipe2 train --strategy sequential --out sequential.json        the same network without a pipeline
  layerpipe2 train --config window.json --seed 1                      that run again with another seed
  layerpipe2 train --network resnet18 --dataset cifar100 --batch-size 128 --max-steps 300 --augment
  layerpipe2 train --epochs 50 --checkpoint-dir checkpoints           stop it with Ctrl-C, then go on bit for bit:
  layerpipe2 train --epochs 50 --checkpoint-dir checkpoints --resume
  layerpipe2 train --epochs 50 --mlflow                               watch it meanwhile: make ui""",
        explanation="""\
Accuracies are fractions in [0, 1]. The same settings give the same record, except for its times.""",
    ),
    "delays": Command(
        "show stages, delays, and what happens tick by tick",
        study="""\
  layerpipe2 delays                                    every unit of the MLP is a stage: delay 2 x stages after it
  layerpipe2 delays --network vgg --group-size 3       three units share a stage and its delay
  layerpipe2 delays --json                             the same for programs
  layerpipe2 delays --convention pipedream             asynchronous 1F1B: half the delay
  layerpipe2 delays --group-size 3 --convention custom --delays 4,4,0""",
        explanation="""\
In the grid, F3 is the forward pass of mini-batch 3 and B3 its backward pass. A stage's delay is the number of its
updates between the two. `copies` are the parameter copies that hardware holds beside the latest weights: what exact
stashing stores and a moving average reconstructs.""",
    ),
    "balance": Command(
        "time the units, cut them into stages, find the fastest training",
        study="""\
  layerpipe2 balance                                   the MLP on digits in two stages, with SGD's update
  layerpipe2 balance --optimizer adamw --threads 2 --repeats 25
  layerpipe2 balance --network resnet18 --stages 2     time every unit, cut where the slower stage is fastest
  layerpipe2 balance --network vgg --dataset cifar10 --batch-size 128 --stages 4 --strategy ema-span
  layerpipe2 balance --network gpt --dataset python-docs --batch-size 8
  layerpipe2 balance --module examples.own_training:training --optimizer adamw
  layerpipe2 balance --width 1024 --gigabits 1 --latency 0.1    two machines instead of two processes on this one""",
        own="""\
  layerpipe2 balance --module examples.own_training:pipeline --stages 4
  layerpipe2 balance --module examples.own_training:pipeline --gigabits 1 --latency 0.1      a machine per process""",
        explanation="""\
First units and the best cut, whose prediction leaves out transfers; then what else the same processes could do, with
transfers, by this machine's memory and link: one process with all threads, data parallel training, torch's pipelines,
this library with three histories. Ends with the fastest one. MB are those of the process that holds most, as modelled.
Times are those of this machine, now: let nothing else run. How a training begins with late gradients shows advise.
In Python: layerpipe2.planning.profiling.profile, then balance.balanced, and predict.Predictor.""",
    ),
    "tune": Command(
        "search for the best settings of a run with Optuna",
        study="""\
  layerpipe2 tune --space lr=log:1e-3:1                          20 trials of the MLP on digits, by validation accuracy
  layerpipe2 tune --space lr=log:1e-3:1 momentum=uniform:0:0.99 --strategy ema-span --trials 40 --jobs 2
  layerpipe2 tune --space space.yaml --optimizer adamw --objective loss --sampler gp --pruner hyperband
  layerpipe2 tune --space lr=log:1e-3:1 group_size=int:1:4 strategy=choice:stash,latest,ema-span \\
                  --objective accuracy copies time               a Pareto front: accuracy against memory and time
  layerpipe2 tune --module examples.own_training:training --stages 3 --space lr=log:1e-3:1     a network of your own
  layerpipe2 tune status                                         what runs where, the best so far, the time left
  layerpipe2 tune join                                           one more process, until the study is finished
  layerpipe2 tune --space lr=log:1e-3:1 --storage postgresql://user@host/optuna --study mlp     on each machine""",
        explanation="""\
Ranges: log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH, int-log:LOW:HIGH, choice:A,B,.. of any setting above; with `if`
they hold in some trials only, as in 'momentum=uniform:0:0.99 if optimizer=sgd'. A file has a line `lr: log:1e-3:1` for
each. Trials are judged by validation data; test data are not looked at. Stop it with Ctrl-C; the same command goes on.
Every trial is a run, with its record in the study's folder.""",
    ),
    "advise": Command(
        "begin a training with each strategy, side by side",
        study="""\
  layerpipe2 advise                                       the MLP on digits, every unit a stage
  layerpipe2 advise --network vgg --group-size 3 --lr 0.1 --momentum 0 --steps 50
  layerpipe2 advise --optimizer adamw --lr 1e-3 --strategies ema-span pair
  layerpipe2 advise --config run.json --json              the settings of a record, for programs
  layerpipe2 advise --module examples.own_training:training --stages 3 --lr 0.05""",
        own="""\
  layerpipe2 advise --module examples.own_training:pipeline --strategies ema-span pair""",
        explanation="""\
Trains from the first update, at these settings, by exact stashing and beside it with each strategy: the same weights,
mini-batches and random numbers. Shows their losses over time and which diverge; along stash how far each strategy's
weights are from the right ones, and how far its gradients point elsewhere; and the memory that it saves. A short
training says nothing about the accuracy at the end.""",
    ),
    "launch": Command(
        "start the processes of a pipeline on this machine",
        own="""\
  layerpipe2 launch --processes 2 -- train.py --epochs 5                  two processes here
  layerpipe2 launch --processes 2 -- -m layerpipe2 train --epochs 5
  layerpipe2 launch --processes 4 --nodes 2 --node-rank 0 --master 10.0.0.1:29500 --secret-file job -- train.py
  layerpipe2 launch --processes 4 --nodes 2 --node-rank 1 --master 10.0.0.1:29500 --secret-file job -- train.py""",
        explanation="""\
The processes find RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them. When one fails, all
end, with one line that names it. docs/cluster.md shows Slurm and the network's settings.""",
    ),
    "check": Command(
        "hold this machine against the definition, in two minutes",
        own="""\
  layerpipe2 check                                        CPU, every GPU, two processes: a line each
  layerpipe2 check --only cuda                            what needs a GPU
  layerpipe2 check --only processes                       what two processes compute, over each link""",
        explanation="""\
Trains a small network for twenty updates. Simulations are held against a plain loop on the CPU that keeps all old
weights, in bfloat16 on the same device; no delay against ordinary PyTorch, a resumed training against one that was
not stopped, a CUDA graph against single steps, and two processes on CPUs against the simulation, each bit for bit.
`not here` says what this machine lacks. Exit code 0: nothing differs; 1: something differs, or failed with an error,
which its line tells. Every process computes with one thread, without TF32, with deterministic cuDNN.""",
    ),
    "info": Command(
        "show data, networks, strategies, device and versions",
        study="""\
  layerpipe2 info                                       the digits, the lists of names, this machine
  layerpipe2 info --dataset cifar10 --data-root data    is it there and complete?
  layerpipe2 info --schema > run.schema.json            what an editor needs to complete and check settings""",
    ),
    "stability": Command(
        "show how large a step delayed gradients allow",
        study="""\
  layerpipe2 stability                                    the MLP, every unit a stage, momentum 0.9
  layerpipe2 stability --network vgg --group-size 3 --momentum 0
  layerpipe2 stability --convention pipedream --nesterov
  layerpipe2 stability --group-size 3 --convention custom --delays 4,4,0""",
        explanation="""\
Descent with a gradient that is d updates old converges on a quadratic of curvature c if learning rate x c is below a
bound: 2 sin(pi / (4d + 2)) without momentum. Momentum raises it where there is no delay, and lowers it sharply where
there is one. The curvature of a network is not known beforehand: read the table as how much smaller the learning rate
must be than in sequential training.""",
    ),
    "derive": Command(
        "derive a pipeline's delays by retiming, with proofs",
        study="""\
  layerpipe2 derive --network resnet18 --group-size 2     with the branches of the residual blocks""",
        own="""\
  layerpipe2 derive                                       four layers, a stage each: every step, then the proofs
  layerpipe2 derive --layers 5 --groups 2,2,1             layers of one stage share its delay
  layerpipe2 derive --layers 3 --convention pipedream     PipeDream's delays, S instead of 2S
  layerpipe2 derive --layers 3 --step 2                   the registers after one step
  layerpipe2 derive --layers 3 --export dot --out pipeline.dot""",
        explanation="""\
The graph of training has a node for every forward task (F), activation gradient (A), weight gradient (G) and update
(U) of a layer. Step 0 is sequential training; 1 puts registers at input and output; 2 delays gradients, by as little
as the loops allow; 3 and 4 retime, until every boundary between stages has a register in each direction. The tables
count registers, one tick each. Formats of --export: table, edges, dot (Graphviz), json, graphml.""",
    ),
    "schedule": Command(
        "simulate and draw pipeline schedules",
        own="""\
  layerpipe2 schedule                                     all schedules on four processors with equal stages
  layerpipe2 schedule layerpipe2 --processors 3           its chart: F3 is the forward pass of batch 3
  layerpipe2 schedule zb-h1 --batches 6 --until 30        as much of it as you like
  layerpipe2 schedule --processors 8 --forward 1 --activation 1 --weight 2
  layerpipe2 schedule spikepipe --network vgg --processors 8    list schedules of a spiking network's tasks""",
        explanation="""\
Schedules: gpipe, 1f1b, interleaved, zb-h1 (these update once per --batches micro-batches), pipedream, layerpipe,
layerpipe2 (these update after every mini-batch). Processors have a stage each, in `interleaved` two of half the
length, and links cost nothing. Times are in any unit. spikepipe is another model: see docs/theory/spikepipe.md.""",
    ),
}
"""Name -> command."""
