"""`python -m ifuvit`, the same as the command `ifuvit`."""

from ifuvit.commands.main import main

if __name__ == "__main__":
    main()
