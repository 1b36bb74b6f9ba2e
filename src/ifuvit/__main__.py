"""The entry point of the command `ifuvit`, and `python -m ifuvit`, the same."""

import signal


def main() -> None:
    """`ifuvit.commands.main.main`. Until that is loaded, Ctrl-C ends the process without a word: nothing has begun."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ifuvit.commands.main import main

    main()


if __name__ == "__main__":
    main()
