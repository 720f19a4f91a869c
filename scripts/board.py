"""python scripts/board.py: TensorBoard on outputs/, or on the folder that is named."""

from lmlab.sweeps.board_command import main

if __name__ == "__main__":
    main()
