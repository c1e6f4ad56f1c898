"""python -m syncagent"""

from syncagent.cli.main import main

if __name__ == "__main__":
    main()
