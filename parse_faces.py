"""Find the faces in your own photographs and videos, parse them, cut parts out and recolour them.

    pip install -e .                                                # what it needs; PyTorch for a .pt alone
    python parse_faces.py me.jpg                                    # parsed/me.png, me_overlay.jpg, me.json
    python parse_faces.py me.jpg --cutout hair,hat                  # parsed/me_hair_hat.png, its edge with pymatting
    python parse_faces.py me.jpg --colors hair=#a02020              # parsed/me_colored.jpg
    python parse_faces.py party.jpg --face 1                        # of the largest face's person alone
    python parse_faces.py party.jpg --each_face --cutout person     # party_face1.png, party_face1_person.png, ...
    python parse_faces.py holiday/ clip.mp4 --output_dir parsed     # folders and videos: clip_overlay.mp4
    python parse_faces.py clip.mp4 --frames labels                  # clip_frames/000001.png, ... or --frames cutout
    python parse_faces.py --webcam 0

<stem>.png has one channel of class ids at the photograph's own size, <stem>.json the box, landmarks, angle and
confidence of each face and the share of each class. A photograph in which no face is found is named and parsed as a
whole. Overlays of videos are H.264 with the sound kept if imageio-ffmpeg is installed. The exit status is 0 when all
went well, 1 when no face was found in some input, 2 when some could not be read.
"""

from faceparse.errors import run_script
from faceparse.faces.command import main
from faceparse.flags import parse_faces_parser

if __name__ == "__main__":
    run_script(lambda: main(parse_faces_parser(__doc__).parse_args()))
