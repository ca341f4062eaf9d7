"""What holds for all tests."""

import signal

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests that
# interrupt a command would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
