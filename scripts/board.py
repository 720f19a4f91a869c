"""python scripts/board.py: TensorBoard on outputs/, or on the folder that is named."""

from lmlab.display.board import main

if __name__ == "__main__":
    main()
