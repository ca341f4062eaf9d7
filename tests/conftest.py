"""What holds for all tests."""

import os
import signal

# Tests run in several processes and compute little at a time: threads would only wait for each
# other, busily. To be set before the first import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests that
# interrupt a command would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
