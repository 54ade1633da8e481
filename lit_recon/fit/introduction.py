"""The text of `python train.py --help`, without slow imports."""

HELP = """\
usage: python train.py [command] [--config FILE] [--flag value ...]

Train a small over-parameterised model on a few images and, at every checkpoint,
reconstruct the training images from its weights alone.

commands
  fit            train and reconstruct; the default command. Without flags it runs the demo.
  fit --help     list every flag
  sweep          fit over a grid of flags, and draw the law: --grid.FLAG 1,2,4 --jobs 2
  sweep --help   list its own flags
  reconstruct    attack saved checkpoints: --run runs/NAME --steps all, --checkpoint FILE, or
                 --before FILE --after FILE of any network
  audit          every attack on a network, and a verdict: --before FILE --after FILE, or --run
                 runs/NAME; exit status 3 if something came back
  report         write report.html again: --run runs/NAME or, of a sweep, --sweep runs/NAME
  dashboard      build a W&B workspace: --entity NAME --project lit_recon

groups of flags
  --data         Photos, CIFAR10Subset, MNIST, Digits, ImageFolderSubset, Sphere, TwoMoons or
                 Table; --data.n, --data.classes or --data.groups, ...
  --model        RandomFeatures, MLP, DeepMLP, ResNet, SmallCNN, Autoencoder, ConvAutoencoder or
                 Interpolator; --model.p, --model.width or --model.p_over_dn; --model.widths;
                 --model.depth
  --task         Labels, RandomLabels, Autoencode or Next: what the network is trained on
  --optim        LeastSquares, SGD, Adam, TensorAdam, LBFGS, GaussNewton, Margin or Construct;
                 --optim.lr, ...
  --recon        auto (every method that applies but KKTReconstructor), RowSpaceReconstructor,
                 ProjectionReconstructor, AttractorReconstructor, KKTReconstructor, or a list of
                 methods; --recon.max_seconds, --recon.seed and others hold for every method that
                 has them
  --checkpoint.* when checkpoints are saved: every_n_steps, at_steps, keep
  --trainer.*    the arguments of Lightning's Trainer
  --wandb.*      mode auto, online, offline or disabled; project, entity, group, tags
  --run.*        name, dir, seed, resume, overwrite
  --plugin NAME  your own importable package, whose classes flags can choose; you trust its code
  --config FILE  flags from YAML, also several times: a later file wins, a flag wins over all files
  --print_config print the whole configuration as YAML and stop

examples
  python train.py
  python train.py --data.n 6 --model.p_over_dn 4
  python train.py --config configs/rf_cifar10.yaml
  python train.py --data ImageFolderSubset --data.root FOLDER --data.classes '[cat, dog]'
  python train.py --data Sphere --data.n 10 --data.d 100 --model.p 2000
  python train.py --run.name NAME --run.resume true
  python train.py reconstruct --run runs/NAME --steps all --recon.max_seconds 60
  python train.py report --run runs/NAME
  python train.py sweep --config configs/law_rf.yaml --jobs 2
"""
