"""`python -m benchmarks`."""

if __name__ == "__main__":  # measured processes import this module again, and must not load the command line
    from benchmarks.command import main

    main()
