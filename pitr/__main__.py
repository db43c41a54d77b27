"""Let `python -m pitr` run the command line."""

from pitr.cli.main import main

if __name__ == "__main__":
    main()
