"""The command `faceparse`: parse_faces.py of the repository, for those who have installed the package."""

from faceparse.errors import run_script
from faceparse.flags import parse_faces_parser


def run():
    args = parse_faces_parser("Parse faces in photographs and videos, cut parts out and recolour them.").parse_args()

    def parse():
        from faceparse.faces.command import main  # here, so that --help need not wait for it

        main(args)

    run_script(parse)


if __name__ == "__main__":
    run()
