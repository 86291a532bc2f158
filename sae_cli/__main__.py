"""`python -m sae_cli` is `saectl`."""

from sae_cli.cli.app import main

if __name__ == "__main__":
    main()
