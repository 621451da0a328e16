"""`python -m ilrec_cli`: the same as `ilrec`, which `accelerate launch -m` needs."""

from ilrec_cli.cli import main

if __name__ == "__main__":
    main()
