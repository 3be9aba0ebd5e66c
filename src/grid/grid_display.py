"""How far a grid has come, on the console."""

import sys

from tqdm import tqdm


class Display:
    """Runs done and left, what each running one is at, and the time left: bars on a terminal, lines in a pipe."""

    def __init__(self, runs, slots):
        self.runs, self.done = len(runs), 0
        terminal = sys.stderr.isatty()
        epochs = sum(run.settings.num_epochs for run in runs)
        self.bar = tqdm(total=epochs, unit="epoch", disable=not terminal, desc=f"0/{self.runs} runs", smoothing=0.1)
        self.slots = [
            tqdm(bar_format="  {desc}", position=slot + 1, disable=not terminal, leave=False) for slot in range(slots)
        ]

    def say(self, line):
        """A line above the bars."""
        tqdm.write(line)
        sys.stdout.flush()

    def progress(self, slot, run, epochs, new_epochs):
        """A run has reached so many epochs, some of them since the last call."""
        self.slots[slot].set_description_str(f"{run.title}: epoch {epochs} of {run.settings.num_epochs}")
        self.bar.update(new_epochs)

    def finish(self, slot, outcome):
        """A run has ended."""
        self.done += 1
        self.slots[slot].set_description_str("")
        self.bar.set_description(f"{self.done}/{self.runs} runs")
        self.say(f"# [{self.done}/{self.runs}] {outcome}")

    def close(self):
        """Take the bars off the terminal."""
        for bar in (*self.slots, self.bar):
            bar.close()
